{{ stage('dataworks', 'published_api_response_parameters', [
    ['project_id', 'bigint', 'workspace_id'],
    ['api_id', 'bigint'],
    ['kind', 'text', 'parameter_kind'],
    ['position', 'bigint', 'parameter_place'],
    ['parameter_name', 'text'],
    ['parameter_data_type_name', 'text', 'parameter_type'],
    ['parameter_description', 'text', 'description'],
    ['example_value', 'text'],
]) }}
