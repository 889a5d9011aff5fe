{{ stage('growingio', 'segmentations', [
    ['project_uid', 'text'],
    ['id', 'text', 'segmentation_id'],
    ['name', 'text', 'segmentation_name'],
    ['user_type', 'text'],
    ['user_num', 'bigint', 'user_count'],
    ['updated_at', 'date', 'updated_on'],
]) }}
